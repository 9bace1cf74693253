"""LoRA adapters: the layer, training, evaluation, versions and their reconciliation. No HTTP here."""
