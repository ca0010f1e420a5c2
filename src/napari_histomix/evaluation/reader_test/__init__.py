"""The reader test: people say of crops, one at a time and blinded, whether they are real or synthetic."""
