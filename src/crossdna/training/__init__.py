"""Learning: objectives, teachers, pretraining and fine-tuning."""
