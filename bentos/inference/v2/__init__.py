"""The Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it.

`tensors` reads requests and writes answers, `routes` answers them, `page` describes the routes.
The protocol: github.com/kserve/open-inference-protocol, inference_rest.md. Tensors as bytes behind
the JSON: Triton's binary tensor data extension, protocol/extension_binary_data.md in
github.com/triton-inference-server/server.
"""
