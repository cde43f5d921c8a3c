"""The configuration of a run: keys and their rules, recipes, variants."""
