"""Makes the models and the text that the package carries: corpus, tokenizer, training, cards."""
