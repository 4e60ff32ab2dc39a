"""Networks, losses, augmentation, data and loop under the names of the StyleGAN2-ADA interface.

Importing the package has no side effects; configurations name its classes as text.
"""
