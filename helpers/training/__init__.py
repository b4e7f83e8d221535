"""Fits LoRA and QLoRA adapters, after a preflight audit."""
