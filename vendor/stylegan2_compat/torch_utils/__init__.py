"""PyTorch helpers under the names of the StyleGAN2-ADA interface.

Importing the package has no side effects; import the modules one by one.
"""
