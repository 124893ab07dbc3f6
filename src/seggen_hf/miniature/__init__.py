"""The miniature base: its architecture, its autoencoder in closed form, and flat drawings."""
