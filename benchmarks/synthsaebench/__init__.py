"""SynthSAEBench on its authors' terms: their scores beside ours, and the page of results."""
