"""VAEs of the pack's models: latent diffusion's own autoencoders, the wavelet transform, none."""
