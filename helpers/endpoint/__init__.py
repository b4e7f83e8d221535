"""Chat servers with an OpenAI-compatible address, the embedded one included."""
