/** The choice of a model. */

import { ModelList } from "./ModelList";
import { Modal } from "./ui/Modal";

interface Props {
  chosen: string;
  onPick: (id: string) => void;
  onClose: () => void;
}

export function ModelPicker({ chosen, onPick, onClose }: Props) {
  return (
    <Modal title="Choose a model" isWide onClose={onClose}>
      <ModelList chosen={chosen} onPick={onPick} />
    </Modal>
  );
}
