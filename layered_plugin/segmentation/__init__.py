"""From a generator to masks of real pictures: distillation, inversion, models at work."""
