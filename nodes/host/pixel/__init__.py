"""What text-conditional and inpainting pixel models are told."""
