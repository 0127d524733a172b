"""What a model is asked: prompts seen through an SAE, sets of prompts, questions."""
