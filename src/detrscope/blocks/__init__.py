"""Model components: backbone, neck, encoder, queries, decoder, heads."""
