// The page at /docs: Swagger UI over this server's own document.

// Swagger UI would ask for the audio a second time, and by GET; so the audio that has come is played.
const PlaysAudio = () => ({
  wrapComponents: {
    responseBody: (Original, { React }) => (props) => {
      const { content, contentType } = props;
      const url = React.useMemo(() => content instanceof Blob && URL.createObjectURL(content), [content]);
      React.useEffect(() => () => url && URL.revokeObjectURL(url), [url]);
      if (!url || !contentType.startsWith("audio/")) return React.createElement(Original, props);
      return React.createElement(
        "div",
        null,
        React.createElement("audio", { controls: true, src: url }),
        React.createElement("a", { href: url, download: "speech" }, "Download"),
      );
    },
  },
});

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // Would send the document to another host.
  plugins: [PlaysAudio],
});
