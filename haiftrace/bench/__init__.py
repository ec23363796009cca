"""The paper's experiments (Liu and Yang 2024, arXiv 2408.10468), one command each."""
