"""The gateway: an OpenAI-compatible server that lets TinyAda choose the LoRA adapter of each request."""
