"""What a rule is and when it fires: measures, conditions, alert states, and the evaluator of sealed panes."""
