"""A page in the browser of this machine that shows what encryption does, to pictures, to a model, and to attackers."""
