"""What each model can take, one module per model; `find` picks."""
