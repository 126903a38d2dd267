"""Any2Point for Hugging Face."""
