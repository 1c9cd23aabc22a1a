"""What all HTML pages share: one base, one stylesheet, one set of filters. Imports neither JAX nor Plotly."""
