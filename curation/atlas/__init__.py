"""The atlas: texts as points of a page that opens in any browser, near one another where their embeddings are."""
