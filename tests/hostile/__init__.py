"""Files made to harm whoever loads them, or to lie: one function a file, every loader their target."""
