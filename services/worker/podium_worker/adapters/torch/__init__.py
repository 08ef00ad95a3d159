"""The only package of Podium that imports torch and the model libraries. Executors import it when wanted."""
