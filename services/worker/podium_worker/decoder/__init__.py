"""The decoder process: image files in, pictures in shared memory out. Neither torch nor gRPC."""
