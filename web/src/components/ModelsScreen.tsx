/** All models: what can be served, what is in memory, loading and unloading. */

import { chosenModel } from "../store/draft";
import { go } from "../store/route";
import { ModelList } from "./ModelList";
import { Troubles } from "./Troubles";

export function ModelsScreen() {
  return (
    <>
      <header class="screen-head">
        <h1>Models</h1>
        <p>
          What is trending on the Hugging Face Hub, and what the workers have. A model is downloaded and
          loaded when it is first used; loading it before saves that wait.
        </p>
      </header>
      <Troubles />
      <div class="models-list">
        <ModelList
          showsAll
          pickLabel="Speak with"
          onPick={(id) => {
            chosenModel.value = id;
            go("speak");
          }}
        />
      </div>
    </>
  );
}
