"""The forward step in C++ for CPUs with AVX-512 (VNNI, BF16): one team of threads from first layer to logits."""
