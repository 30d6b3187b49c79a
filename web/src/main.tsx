import "@fontsource-variable/inter/wght.css";
import "./styles/tokens.css";
import "./styles/base.css";
import { render } from "preact";
import { App } from "./components/App";
import { watch } from "./store/catalogue";
import { read } from "./store/history";

watch();
void read();
render(<App />, document.getElementById("app")!);
