"""`python -m vae`: train, resume, evaluate, look."""
