import gradsae

model = gradsae.load_model("smollm2")  # or your own transformers model and its tokenizer
sae = gradsae.train("topk", "lm_layer", d_sae=2048, k=32)  # or load_sae(a folder, a hub id)
prompt = "The capital of France is"
table = gradsae.influence(model, sae, prompt, target=" Paris")  # estimates beside the truth
frame = table.to_pandas()
steered = gradsae.steer(model, sae, prompt, table["latent"][:3], dose=[0, 2, 4])
scores = gradsae.score(sae, "lm_layer")
fit_for_gba = gradsae.suitability("lm_layer")
