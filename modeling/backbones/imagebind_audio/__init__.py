"""ImageBind's audio encoder, which transformers does not have."""
