"""Raw datasets, as their publishers ship them, read into entries: `layouts.LAYOUTS` has every layout by name."""
