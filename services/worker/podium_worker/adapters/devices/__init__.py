"""GPUs as the driver tells about them: which there are, and how they do. Nothing here touches CUDA."""
