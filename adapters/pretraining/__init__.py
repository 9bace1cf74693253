"""The shipped base: its corpus, its tokenizer, its training, and the bundle made of it and its adapters."""
