"""What is known of text alone: words, terms, search by BM25."""
