"""GRPO post-training of language models in JAX on Google Tunix, with reward engineering at its heart."""
