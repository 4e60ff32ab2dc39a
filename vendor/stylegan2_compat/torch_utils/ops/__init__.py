"""Image and gradient operations of the networks, written in plain PyTorch.

Each module holds one operation; all of them run on the CPU and on a GPU."""
