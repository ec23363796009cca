"""What the HTML report shows, as views: inert strings and numbers, ready for its template."""
