"""What every experiment needs: stages, results, tables, figures, statistics."""
