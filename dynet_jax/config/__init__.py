"""What a run needs to know: keys and their rules, recipes, variants."""
