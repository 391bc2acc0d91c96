"""The process around a run: errors, processes, compile cache, memory allocator."""
