"""Prompts in every form, and how an answer is measured."""
