"""The backend in pure PyTorch, for any device: read ``blocked`` first, then ``tiles``."""
