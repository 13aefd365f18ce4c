"""From records to tables, figures and the page. Nothing here trains, and nothing here needs torch."""
