"""The methods of fine-tuning, each an objective on walks or pairs; one loop, ``unidiff.train.FineTuner``, runs them all."""
