"""A web page that classifies point clouds and shows where the model looks (`any2point demo`)."""
