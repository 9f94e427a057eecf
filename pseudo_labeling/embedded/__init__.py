"""Two small networks that come with the package, and the phantoms they were trained on (MODEL_CARD.md)."""
