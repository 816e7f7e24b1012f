"""How good a model is: COCO AP, tables, results."""
