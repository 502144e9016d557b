"""A second engine behind the same scheduler, sampler and worker: OpenVINO computes, on KV blocks that we own."""
