"""The steps of ``benchmarks.gpu_day``, each a process of its own; all run on a CPU as well, for rehearsal."""
