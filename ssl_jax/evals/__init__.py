"""Evaluation of frozen features: pure functions of arrays, ignorant of models, configs and workdirs."""
