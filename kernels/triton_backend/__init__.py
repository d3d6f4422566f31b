"""The backend in Triton, for fp32 on CUDA: ``sweeps`` plans launches, the rest are its kernels."""
